//! Qdrant's services over what a cluster has.

use std::{collections::BTreeMap, future::Future, pin::Pin};

use qdrant_client::qdrant::{
    self as wire, alias_operations::Action, collections_server::Collections, points_selector::PointsSelectorOneOf,
    points_server::Points, value::Kind,
};
use tonic::{Request, Response, Status};

use super::cluster::{Kept, Service, named, selected, uuid};

type Answered<T> = Result<Response<T>, Status>;

/// Calls that the engine does not make.
macro_rules! unknown {
    ($($call:ident($request:ident) -> $response:ident;)*) => {
        $(fn $call<'life, 'future>(
            &'life self,
            _: Request<wire::$request>,
        ) -> Pin<Box<dyn Future<Output = Answered<wire::$response>> + Send + 'future>>
        where
            'life: 'future,
            Self: 'future,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($call))) })
        })*
    };
}

fn done(waited: Option<bool>) -> Answered<wire::PointsOperationResponse> {
    let status = match waited {
        Some(true) => wire::UpdateStatus::Completed,
        _ => wire::UpdateStatus::Acknowledged,
    };
    let result = wire::UpdateResult { operation_id: Some(1), status: status.into() };
    Ok(Response::new(wire::PointsOperationResponse { result: Some(result), ..Default::default() }))
}

fn operated(result: bool) -> Answered<wire::CollectionOperationResponse> {
    Ok(Response::new(wire::CollectionOperationResponse { result, time: 0.0 }))
}

#[tonic::async_trait]
impl Points for Service {
    async fn upsert(&self, request: Request<wire::UpsertPoints>) -> Answered<wire::PointsOperationResponse> {
        let mut contents = self.called("upsert", &request);
        let request = request.into_inner();
        let kept = contents.kept(&request.collection_name)?;
        let points = kept.replaceable(request.points, request.update_filter.as_ref())?;
        kept.upsert(points)?;
        done(request.wait)
    }

    async fn delete(&self, request: Request<wire::DeletePoints>) -> Answered<wire::PointsOperationResponse> {
        let mut contents = self.called("delete", &request);
        let request = request.into_inner();
        let kept = contents.kept(&request.collection_name)?;
        let gone = match request.points.and_then(|points| points.points_selector_one_of) {
            Some(PointsSelectorOneOf::Points(points)) => {
                points.ids.iter().map(|id| uuid(Some(id))).collect::<Result<Vec<_>, _>>()?
            }
            Some(PointsSelectorOneOf::Filter(filter)) => {
                let numbers = kept.matching(Some(&filter))?;
                let ids = numbers.iter().map(|number| uuid(kept.points[&number].id.as_ref()));
                ids.collect::<Result<Vec<_>, _>>()?
            }
            None => return Err(Status::invalid_argument("no selector")),
        };
        gone.iter().for_each(|id| kept.remove(id));
        done(request.wait)
    }

    async fn get(&self, request: Request<wire::GetPoints>) -> Answered<wire::GetResponse> {
        let mut contents = self.called("get", &request);
        let request = request.into_inner();
        let kept = contents.kept(&request.collection_name)?;
        let mut result = Vec::new();
        for id in &request.ids {
            if let Some(point) = kept.by_id(id)? {
                result.push(wire::RetrievedPoint {
                    id: point.id.clone(),
                    payload: selected(&point.payload, request.with_payload.as_ref()),
                    vectors: selected_vectors(point, request.with_vectors.as_ref())?,
                    ..Default::default()
                });
            }
        }
        Ok(Response::new(wire::GetResponse { result, ..Default::default() }))
    }

    async fn create_field_index(
        &self,
        request: Request<wire::CreateFieldIndexCollection>,
    ) -> Answered<wire::PointsOperationResponse> {
        let mut contents = self.called("create_field_index", &request);
        let request = request.into_inner();
        let kept = contents.kept(&request.collection_name)?;
        kept.indexed.insert(request.field_name, request.field_type.unwrap_or_default());
        done(request.wait)
    }

    async fn count(&self, request: Request<wire::CountPoints>) -> Answered<wire::CountResponse> {
        let mut contents = self.called("count", &request);
        let request = request.into_inner();
        let count = contents.kept(&request.collection_name)?.matching(request.filter.as_ref())?.len();
        Ok(Response::new(wire::CountResponse { result: Some(wire::CountResult { count }), ..Default::default() }))
    }

    async fn query_batch(&self, request: Request<wire::QueryBatchPoints>) -> Answered<wire::QueryBatchResponse> {
        let (mut delay, faults) = {
            let mut contents = self.called("query_batch", &request);
            contents.queries.push(request.get_ref().query_points.len());
            contents.params.extend(request.get_ref().query_points.iter().map(|query| query.params.clone()));
            (contents.faults.delay, contents.faults.clone())
        };
        for query in &request.get_ref().query_points {
            if faults.failing.as_deref() == Some(query.using()) {
                return Err(Status::internal("on purpose"));
            }
            match &faults.slow {
                Some((vector, time)) if vector == query.using() => delay = delay.max(*time),
                _ => {}
            }
        }
        tokio::time::sleep(delay).await;
        let mut contents = self.called("query_batch_done", &request);
        let mut result = Vec::new();
        for query in &request.get_ref().query_points {
            if query.collection_name != request.get_ref().collection_name {
                return Err(Status::invalid_argument("a batch is of one collection"));
            }
            let kept = contents.kept(&query.collection_name)?;
            let among = kept.matching(query.filter.as_ref())?;
            let found = kept.nearest(query, &among)?.into_iter().map(|(score, point)| wire::ScoredPoint {
                id: point.id.clone(),
                payload: selected(&point.payload, query.with_payload.as_ref()),
                score,
                ..Default::default()
            });
            // Qdrant promises no order of equal scores: here they come as nobody would sort them.
            let mut found: Vec<_> = found.collect();
            found.sort_by_key(|point| std::cmp::Reverse(point.id.as_ref().map(hash)));
            result.push(wire::BatchResult { result: found });
        }
        Ok(Response::new(wire::QueryBatchResponse { result, ..Default::default() }))
    }

    async fn facet(&self, request: Request<wire::FacetCounts>) -> Answered<wire::FacetResponse> {
        use wire::facet_value::Variant;

        let mut contents = self.called("facet", &request);
        let request = request.into_inner();
        let kept = contents.kept(&request.collection_name)?;
        if !kept.indexed.contains_key(&request.key) {
            return Err(Status::invalid_argument("no index for the facet"));
        }
        let mut counts = BTreeMap::<String, (Variant, u64)>::new();
        for number in kept.matching(request.filter.as_ref())? {
            let mut seen = Vec::new();
            for value in super::evaluate::values(&kept.points[&number].payload, &request.key) {
                let variant = match value {
                    Kind::StringValue(text) => Variant::StringValue(text),
                    Kind::IntegerValue(number) => Variant::IntegerValue(number),
                    Kind::BoolValue(truth) => Variant::BoolValue(truth),
                    other => return Err(Status::invalid_argument(format!("no facet of {other:?}"))),
                };
                // A document counts once for a value, however often it has it.
                if !seen.contains(&variant) {
                    counts.entry(format!("{variant:?}")).or_insert((variant.clone(), 0)).1 += 1;
                    seen.push(variant);
                }
            }
        }
        let mut hits: Vec<_> = counts.into_values().collect();
        hits.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        hits.truncate(request.limit() as usize);
        let hits = hits.into_iter().map(|(variant, count)| {
            let value = Some(wire::FacetValue { variant: Some(variant) });
            wire::FacetHit { value, count }
        });
        Ok(Response::new(wire::FacetResponse { hits: hits.collect(), ..Default::default() }))
    }

    unknown! {
        update_vectors(UpdatePointVectors) -> PointsOperationResponse;
        delete_vectors(DeletePointVectors) -> PointsOperationResponse;
        set_payload(SetPayloadPoints) -> PointsOperationResponse;
        overwrite_payload(SetPayloadPoints) -> PointsOperationResponse;
        delete_payload(DeletePayloadPoints) -> PointsOperationResponse;
        clear_payload(ClearPayloadPoints) -> PointsOperationResponse;
        delete_field_index(DeleteFieldIndexCollection) -> PointsOperationResponse;
        create_vector_name(CreateVectorNameRequest) -> PointsOperationResponse;
        delete_vector_name(DeleteVectorNameRequest) -> PointsOperationResponse;
        search(SearchPoints) -> SearchResponse;
        search_batch(SearchBatchPoints) -> SearchBatchResponse;
        search_groups(SearchPointGroups) -> SearchGroupsResponse;
        scroll(ScrollPoints) -> ScrollResponse;
        recommend(RecommendPoints) -> RecommendResponse;
        recommend_batch(RecommendBatchPoints) -> RecommendBatchResponse;
        recommend_groups(RecommendPointGroups) -> RecommendGroupsResponse;
        discover(DiscoverPoints) -> DiscoverResponse;
        discover_batch(DiscoverBatchPoints) -> DiscoverBatchResponse;
        update_batch(UpdateBatchPoints) -> UpdateBatchResponse;
        query(QueryPoints) -> QueryResponse;
        query_groups(QueryPointGroups) -> QueryGroupsResponse;
        search_matrix_pairs(SearchMatrixPoints) -> SearchMatrixPairsResponse;
        search_matrix_offsets(SearchMatrixPoints) -> SearchMatrixOffsetsResponse;
    }
}

fn hash(id: &wire::PointId) -> String {
    uuid(Some(id)).unwrap_or_default()
}

fn selected_vectors(
    point: &wire::PointStruct,
    selector: Option<&wire::WithVectorsSelector>,
) -> Result<Option<wire::VectorsOutput>, Status> {
    use wire::{vector, vector_output, with_vectors_selector::SelectorOptions};

    let Some(SelectorOptions::Include(wanted)) = selector.and_then(|selector| selector.selector_options.as_ref())
    else {
        return Ok(None);
    };
    let vectors = named(point)?.filter(|(name, _)| wanted.names.contains(name)).map(|(name, vector)| {
        let vector = match vector.vector.clone().expect("checked before") {
            vector::Vector::Dense(dense) => vector_output::Vector::Dense(dense),
            vector::Vector::Sparse(sparse) => vector_output::Vector::Sparse(sparse),
            other => unreachable!("{other:?}"),
        };
        (name.clone(), wire::VectorOutput { vector: Some(vector), ..Default::default() })
    });
    let named = wire::NamedVectorsOutput { vectors: vectors.collect() };
    Ok(Some(wire::VectorsOutput { vectors_options: Some(wire::vectors_output::VectorsOptions::Vectors(named)) }))
}

#[tonic::async_trait]
impl Collections for Service {
    async fn get(&self, request: Request<wire::GetCollectionInfoRequest>) -> Answered<wire::GetCollectionInfoResponse> {
        let mut contents = self.called("collection_info", &request);
        let kept = contents.kept(&request.get_ref().collection_name)?;
        let config = wire::CollectionConfig { metadata: kept.created.metadata.clone(), ..Default::default() };
        let points_count = Some(kept.points.len() as u64);
        let result = wire::CollectionInfo { config: Some(config), points_count, ..Default::default() };
        Ok(Response::new(wire::GetCollectionInfoResponse { result: Some(result), time: 0.0 }))
    }

    async fn list(&self, request: Request<wire::ListCollectionsRequest>) -> Answered<wire::ListCollectionsResponse> {
        let contents = self.called("list_collections", &request);
        let names = contents.collections.keys().rev();
        let collections = names.map(|name| wire::CollectionDescription { name: name.clone() }).collect();
        Ok(Response::new(wire::ListCollectionsResponse { collections, time: 0.0 }))
    }

    async fn create(&self, request: Request<wire::CreateCollection>) -> Answered<wire::CollectionOperationResponse> {
        let mut contents = self.called("create_collection", &request);
        let created = request.into_inner();
        let name = created.collection_name.clone();
        if contents.collections.contains_key(&name) || contents.aliases.contains_key(&name) {
            return Err(Status::already_exists(format!("Wrong input: Collection `{name}` already exists!")));
        }
        contents.collections.insert(name, Kept::new(created));
        if contents.faults.silent_creation {
            return Err(Status::deadline_exceeded("on purpose"));
        }
        operated(true)
    }

    async fn delete(&self, request: Request<wire::DeleteCollection>) -> Answered<wire::CollectionOperationResponse> {
        let mut contents = self.called("delete_collection", &request);
        let there = contents.collections.remove(&request.get_ref().collection_name).is_some();
        operated(there)
    }

    async fn update_aliases(
        &self,
        request: Request<wire::ChangeAliases>,
    ) -> Answered<wire::CollectionOperationResponse> {
        let mut contents = self.called("update_aliases", &request);
        let mut aliases = contents.aliases.clone();
        for operation in request.into_inner().actions {
            match operation.action {
                Some(Action::CreateAlias(create)) => {
                    if !contents.collections.contains_key(&create.collection_name) {
                        return Err(Status::not_found("no such collection"));
                    }
                    if aliases.insert(create.alias_name, create.collection_name).is_some() {
                        return Err(Status::already_exists("the alias is taken"));
                    }
                }
                Some(Action::DeleteAlias(delete)) => {
                    aliases.remove(&delete.alias_name);
                }
                other => return Err(Status::unimplemented(format!("{other:?}"))),
            }
        }
        contents.aliases = aliases;
        operated(true)
    }

    async fn list_aliases(&self, request: Request<wire::ListAliasesRequest>) -> Answered<wire::ListAliasesResponse> {
        let (aliases, held) = {
            let mut contents = self.called("list_aliases", &request);
            (contents.aliases.clone(), contents.faults.held_aliases.take())
        };
        if let Some(held) = held {
            held.notified().await;
        }
        let described = |(alias_name, collection_name)| wire::AliasDescription { alias_name, collection_name };
        Ok(Response::new(wire::ListAliasesResponse {
            aliases: aliases.into_iter().map(described).collect(),
            time: 0.0,
        }))
    }

    unknown! {
        update(UpdateCollection) -> CollectionOperationResponse;
        list_collection_aliases(ListCollectionAliasesRequest) -> ListAliasesResponse;
        collection_cluster_info(CollectionClusterInfoRequest) -> CollectionClusterInfoResponse;
        collection_exists(CollectionExistsRequest) -> CollectionExistsResponse;
        update_collection_cluster_setup(UpdateCollectionClusterSetupRequest) -> UpdateCollectionClusterSetupResponse;
        create_shard_key(CreateShardKeyRequest) -> CreateShardKeyResponse;
        delete_shard_key(DeleteShardKeyRequest) -> DeleteShardKeyResponse;
        list_shard_keys(ListShardKeysRequest) -> ListShardKeysResponse;
    }
}
